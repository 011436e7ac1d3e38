-- Renew a lease and, with a phase, record the progress of the attempt.
-- Arguments: id, token, lease (seconds), phase (or ''), step, steps.
-- Answers 'stale', 'cancel' (the caller must stop) or 'ok'.
-- include: attempt
-- flags: allow-oom
record_activity()
local id = args.id
local job = redis.call('HMGET', job_key(id), 'state', 'token', 'phase', 'step', 'steps', 'cancel')
if job[1] ~= 'started' or job[2] ~= args.token then return 'stale' end
redis.call('ZADD', key('leases'), now + args.lease, id)
local same = job[3] == args.phase and job[4] == tostring(args.step) and job[5] == tostring(args.steps)
if args.phase ~= '' and not same then
  set(id, 'phase', args.phase, 'step', args.step, 'steps', args.steps, 'told', now_text)
  notify(id)
end
return job[6] and 'cancel' or 'ok'
