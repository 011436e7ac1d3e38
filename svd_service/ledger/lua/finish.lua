-- Commit a result and end the job. A late cancel has no effect: the result exists.
-- Arguments: id, token, result (JSON), result_ttl (seconds), device, seconds (of each measured phase, 0 if unknown),
-- frames and bytes (of the result's files), reusable (whether other jobs may copy the result), counters (name → amount to
-- add). Returns 'ok' or 'stale'.
-- include: record, attempt, content, throughput
-- flags: allow-oom
local id = args.id
if not known_state(id) then return 'stale' end
if not holds(id, args.token) then
  return field(id, 'state') == 'finished' and field(id, 'last_token') == args.token and 'ok' or 'stale'
end
local measured = 0
for _, seconds in ipairs(args.seconds) do measured = measured + seconds end
learn(id, args.device, args.seconds)
close_attempt(id, 'finished', nil, measured)
add_usage(id, 'frames', args.frames, 'bytes', args.bytes)
set(id, 'last_token', args.token)
redis.call('HDEL', job_key(id), 'cancel')
set(id, 'result', args.result, 'expires', as_text(now + args.result_ttl))
if args.reusable then remember_content(id, args.device, args.result_ttl) end
for name, amount in pairs(args.counters) do redis.pcall('HINCRBYFLOAT', key('counters'), name, amount) end
end_job(id, 'finished', args.result_ttl)
return 'ok'
