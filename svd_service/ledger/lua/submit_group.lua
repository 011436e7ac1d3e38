-- Accept a group of jobs, all or none. Repeating it with one id changes nothing.
-- Arguments: id, owner, priority, jobs (list of {id, fields: of the job hash, name → value}; all of one route), max_queued,
-- max_queued_of_owner (except for owner '', which all callers without a key share), quotas (of the owner, name → limit);
-- webhook (URL, or ''), keep (seconds between the end of the last job and the deletion of the group's record, at most);
-- idempotency_key (or ''), fingerprint, idempotency_ttl (seconds); cancel_after (seconds from now to the jobs' deadline,
-- if they have one), late (whether they are rejected because of that).
-- Returns {'created' | 'repeated' | 'conflict', id}, or what `rejection` returns.
-- include: accept
local UNTIL_STARTED = 30 * 86400  -- seconds for which the record is kept while nothing happens to its jobs

local id, owner = args.id, args.owner
if redis.call('EXISTS', group_key(id)) == 1 then return { 'repeated', id } end
local earlier = earlier_answer(owner, args.idempotency_key, args.fingerprint)
if earlier then return earlier end
local rejected = rejection(#args.jobs, args.jobs[1].fields.route, false)
if rejected then return rejected end

remember_key(owner, args.idempotency_key, args.fingerprint, id, args.idempotency_ttl)
redis.call('HSET', group_key(id), 'owner', owner, 'created', now_text, 'size', #args.jobs, 'keep', args.keep)
if args.webhook ~= '' then redis.call('HSET', group_key(id), 'webhook', args.webhook) end
for number, job in ipairs(args.jobs) do
  redis.call('HSET', group_key(id), 'member:' .. number, job.id)
  create_job(job.id, owner, args.priority, job.fields, now + (number - 1) / 1000000)  -- so that lists keep the order
  set(job.id, 'group', id)
  queue_job(job.id, owner, args.priority, args.cancel_after)
end
redis.call('EXPIRE', group_key(id), math.ceil(math.max(UNTIL_STARTED, args.keep)))
return { 'created', id }
