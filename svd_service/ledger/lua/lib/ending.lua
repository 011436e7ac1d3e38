-- How jobs end.
-- include: base, queue, notify, delivery

-- An owner can create records of failed, cancelled and expired jobs at no cost: beyond MAX_ENDED_PER_OWNER the oldest
-- are deleted. A few at a time, so that no call takes long.
local function bound_records(id, owner)
  local records = key('ended_of:' .. owner)
  redis.call('ZADD', records, now, id)
  local surplus = math.min(redis.call('ZCARD', records) - MAX_ENDED_PER_OWNER, 10)
  if surplus < 1 then return end
  for _, oldest in ipairs(redis.call('ZRANGE', records, 0, surplus - 1)) do
    redis.call('ZREM', records, oldest)
    redis.call('ZREM', key('owner:' .. owner), oldest)
    if redis.call('EXISTS', job_key(oldest)) == 1 then
      set(oldest, 'deleted', 1)
      redis.call('ZADD', key('ended'), now, oldest)
    end
  end
end

-- `keep`: seconds until the job's retention check.
local function end_job(id, state, keep)
  leave_queue(id)
  move(id, state)
  set(id, 'ended', now_text)
  if field(id, 'deleted') then keep = 0 end  -- no owner any more: deleted in the next retention round
  redis.call('ZADD', key('ended'), now + keep, id)
  if state ~= 'finished' then bound_records(id, field(id, 'owner')) end
  count('ended|' .. state)
  notify(id)
  write_delivery(id, state)
end

local function fail_job(id, code, message, keep)
  set(id, 'failure_code', code, 'failure_message', message)
  count('failed|' .. code)
  end_job(id, 'failed', keep)
end
