-- Accept a job. Repeating it with one id changes nothing.
-- Arguments: id, owner, priority, fields (of the job hash, name → value), max_queued, max_queued_of_owner (except for
-- owner '', which all callers without a key share), quotas (of the owner, name → limit), result_ttl (seconds);
-- idempotency_key (or ''), fingerprint, idempotency_ttl (seconds);
-- cancel_after (seconds from now to its deadline, if it has one), late (whether it is rejected because of that);
-- looked_up (whether the content cache was consulted), cached (nothing, or id of the earlier job, result as JSON, device).
-- Returns {'created' | 'repeated' | 'conflict', id}, or what `rejection` returns.
-- include: accept, usage, ending, content
local id, owner, cached = args.id, args.owner, args.cached
if redis.call('EXISTS', job_key(id)) == 1 then return { 'repeated', id } end
local earlier = earlier_answer(owner, args.idempotency_key, args.fingerprint)
if earlier then return earlier end

-- Since the lookup, the earlier job may have been deleted or may have expired.
local has_copy = cached and is_reusable(cached.id, owner)
local rejected = rejection(1, args.fields.route, has_copy)
if rejected then return rejected end
remember_key(owner, args.idempotency_key, args.fingerprint, id, args.idempotency_ttl)
create_job(id, owner, args.priority, args.fields, now)
-- Not the first write: a counter's error is no error, and Redis with full memory permits all writes after the first one.
if args.looked_up then count('cache|' .. (has_copy and 'hit' or 'miss')) end
if has_copy then
  -- It is never queued: callers see it as finished only.
  set(id, 'cached_from', cached.id, 'result', cached.result, 'expires', as_text(now + args.result_ttl))
  remember_content(id, cached.device, args.result_ttl)
  add_usage(id, 'cached', 1)
  end_job(id, 'finished', args.result_ttl)
else
  queue_job(id, owner, args.priority, args.cancel_after)
end
return { 'created', id }
