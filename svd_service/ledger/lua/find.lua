-- A snapshot of jobs. Arguments: ids.
-- Returns {the time, {record, its webhook's delivery, place} of each}: both as {name, value, …}, empty where there is none;
-- the place in its model's queue, from 1, or 0 for a job that is not queued.
-- include: base, routes
-- flags: no-writes
local function hash(name)
  local found = redis.pcall('HGETALL', name)
  return found.err and {} or found
end

local answer = { now_text }
for i, id in ipairs(args.ids) do
  local record, place = hash(job_key(id)), 0
  if #record > 0 and field(id, 'state') == 'queued' then
    local _, model = route_of(id)
    local rank = redis.call('ZRANK', key(ENQUEUED .. ':' .. (model or '')), id)
    if not rank then
      local waiting = redis.call('ZRANK', key('waiting:' .. (model or '')), id) or 0
      rank = redis.call('ZCARD', key(ENQUEUED .. ':' .. (model or ''))) + waiting
    end
    place = rank + 1
  end
  answer[i + 1] = { record, hash(namespace .. ':delivery:' .. id), place }
end
return answer
