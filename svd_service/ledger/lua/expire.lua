-- Retention: results past their time become 'expired', records past theirs are deleted.
-- Arguments: record_ttl (seconds to keep the record of an expired result), limit (jobs in one call).
-- Returns the ids whose artifacts are to be deleted.
-- include: record, notify, forget, ending
-- flags: allow-oom
local due = redis.call('ZRANGEBYSCORE', key('ended'), '-inf', now, 'LIMIT', 0, args.limit)
for _, id in ipairs(due) do
  local state = known_state(id)
  if not state then
    discard(id)
  elseif state == 'queued' or state == 'started' then
    is_usable(id, 'ended', 'ended')  -- in this set only after damage: removed
  elseif field(id, 'pinned') and not field(id, 'deleted') then
    redis.call('ZADD', key('ended'), '+inf', id)  -- its place in this set was lost and repaired
  elseif state == 'finished' and not field(id, 'deleted') then
    move(id, 'expired')
    redis.call('HDEL', job_key(id), 'result')
    redis.call('ZADD', key('ended'), now + args.record_ttl, id)
    bound_records(id, field(id, 'owner'))
    notify(id)
  else
    forget(id)
  end
end
return due
