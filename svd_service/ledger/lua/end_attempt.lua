-- End an attempt that has no result.
-- Arguments: id, token, outcome, code and message (of the failure, or ''), max_attempts, record_ttl (seconds).
-- Outcomes: 'failed' and 'cancelled' end the job; 'retried' and 'lost' (its holder is dead) requeue it while attempts are
-- left; 'released' requeues it (the worker shuts down), and the attempt does not count. Returns 'ok' or 'stale'.
-- include: record, attempt
-- flags: allow-oom
local id, outcome = args.id, args.outcome
if not known_state(id) then return 'stale' end
if not holds(id, args.token) then return field(id, 'last_token') == args.token and 'ok' or 'stale' end
close_attempt(id, outcome, args.code)
set(id, 'last_token', args.token)
if outcome == 'failed' then
  fail_job(id, args.code, args.message, args.record_ttl)
elseif outcome == 'cancelled' then
  end_job(id, 'cancelled', args.record_ttl)
else
  if outcome == 'released' then redis.call('HINCRBY', job_key(id), ATTEMPTS, -1) end
  requeue_or_end(id, args.max_attempts, args.code, args.message, args.record_ttl)
end
return 'ok'
