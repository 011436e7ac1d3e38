-- Retention: results past their time become 'expired', records past theirs are deleted.
-- Arguments: record_ttl (seconds to keep the record of an expired result), limit (jobs in one call).
-- Returns the ids whose artifacts are to be deleted: of results that expired and of records that were deleted.
-- include: record, notify, forget, ending
-- flags: allow-oom

-- Returns whether the job's artifacts are to be deleted.
local function apply_retention(id)
  local state = known_state(id)
  if state == 'queued' or state == 'started' then
    is_usable(id, 'ended', 'ended')  -- in this set only after damage: removed
    return false
  end
  if not state then
    discard(id)
  elseif field(id, 'pinned') and not field(id, 'deleted') then
    redis.call('ZADD', key('ended'), '+inf', id)  -- its place in this set was lost and repaired
    return false
  elseif state == 'finished' and not field(id, 'deleted') then
    move(id, 'expired')
    redis.call('HDEL', job_key(id), 'result')
    redis.call('ZADD', key('ended'), now + args.record_ttl, id)
    bound_records(id, field(id, 'owner'))
    notify(id)
  else
    forget(id)
  end
  return true
end

local gone = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', key('ended'), '-inf', now, 'LIMIT', 0, args.limit)) do
  if apply_retention(id) then gone[#gone + 1] = id end
end
return gone
