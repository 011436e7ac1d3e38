-- Jobs as they are at one moment. ARGV: ids. Answers {the time, {record, its webhook's delivery, place} of each}: both as
-- {name, value, …}, empty where there is none; the place in its model's queue, from 1, or 0 for a job that is not queued.
local answer = { now_text }
for i, id in ipairs(ARGV) do
  local place = 0
  if field(id, 'state') == 'queued' then
    local _, model = route_of(id)
    local rank = redis.call('ZRANK', key('published:' .. model), id)
    if not rank then
      rank = redis.call('ZCARD', key('published:' .. model)) + redis.call('ZRANK', key('waiting:' .. model), id)
    end
    place = rank + 1
  end
  answer[i + 1] = { redis.call('HGETALL', job_key(id)), redis.call('HGETALL', delivery_key(id)), place }
end
return answer
