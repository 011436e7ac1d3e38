-- How jobs end.
-- include: base, queue, notify, delivery, usage, history, histogram, group

-- An owner can create records of failed, cancelled and expired jobs at no cost: beyond MAX_ENDED_PER_OWNER the oldest
-- are deleted.
local function bound_records(id, owner)
  for _, oldest in ipairs(add_bounded(key('ended_of:' .. owner), id)) do
    redis.call('ZREM', key('owner:' .. owner), oldest)
    if redis.call('EXISTS', job_key(oldest)) == 1 then
      set(oldest, 'deleted', 1)
      redis.call('ZADD', key('ended'), now, oldest)
    end
  end
end

-- A job that ends before it has run takes nothing of its owner's share (`queue_job` of lib/accept.lua).
local function return_share(id)
  local route, model = route_of(id)
  if field(id, 'attempt') ~= '0' or not redis.call('ZSCORE', key('queued:' .. route), id) then return end
  local priority = tonumber(field(id, 'priority') or '') or 0
  local finish_tags, flow = key('finish_tags:' .. model), field(id, 'owner') .. '|' .. priority
  if redis.call('HGET', finish_tags, flow) then
    redis.call('HINCRBYFLOAT', finish_tags, flow, -(PRIORITY_SHARE ^ -priority))
  end
end

-- `keep`: seconds until the job's retention check.
local function end_job(id, state, keep)
  return_share(id)
  leave_queue(id)
  redis.call('ZREM', key('deadlines'), id)
  move(id, state)
  set(id, 'ended', now_text)
  if field(id, 'deleted') then keep = 0 end  -- no owner any more: deleted in the next retention round
  redis.call('ZADD', key('ended'), now + keep, id)
  if state ~= 'finished' then bound_records(id, field(id, 'owner')) end
  count('ended|' .. state)
  add_usage(id, state, 1)
  add_to_history(state)
  -- A copy of an earlier video took no time.
  if not field(id, 'cached_from') then
    observe('duration', id, route_of(id) .. '|' .. state)
  end
  notify(id)
  write_delivery(id, state)
  note_end_of_member(id)
end

local function fail_job(id, code, message, keep)
  set(id, 'failure_code', code, 'failure_message', message)
  count('failed|' .. code)
  add_to_history('failed|' .. code)
  end_job(id, 'failed', keep)
end

-- Whether the job's deadline is past.
local function is_late(id)
  local deadline = tonumber(field(id, 'deadline') or '')
  return deadline ~= nil and deadline <= now
end

-- Fail a queued job whose deadline is past; returns the job's state.
local function fail_if_late(id, state, keep)
  if state ~= 'queued' or not is_late(id) then return state end
  fail_job(id, DEADLINE_EXCEEDED, DEADLINE_EXCEEDED_MESSAGE, keep)
  return 'failed'
end
