-- Renew a lease and, with a phase, record the progress of the attempt.
-- Arguments: id, token, lease (seconds), phase (or ''), step, steps, segment, segments.
-- Returns 'stale', 'ok', or why the caller must stop: 'cancel' or 'deadline'.
-- include: attempt
-- flags: allow-oom
record_activity()
local id = args.id
local names = { 'phase', 'step', 'steps', 'segment', 'segments' }
local job = redis.call('HMGET', job_key(id), 'state', 'token', 'cancel', unpack(names))
if job[1] ~= 'started' or job[2] ~= args.token then return 'stale' end
redis.call('ZADD', key('leases'), now + args.lease, id)
local changes = {}
for i, name in ipairs(names) do
  if job[3 + i] ~= tostring(args[name]) then changes[#changes + 1] = name end
end
if args.phase ~= '' and #changes > 0 then
  for _, name in ipairs(changes) do set(id, name, args[name]) end
  set(id, REPORTED, now_text)
  notify(id)
end
return job[3] and 'cancel' or is_late(id) and 'deadline' or 'ok'
