-- Take back what silence has proved lost. ARGV: most attempts, seconds to keep a record, seconds after which a published
-- id that an idle worker should have claimed is published again, seconds after which a silent worker does not count.
-- Answers {ids whose lease lapsed, {id to publish again, its queue, …}}.
hear()
local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', now, 'LIMIT', 0, 100)
for _, id in ipairs(lapsed) do
  close_attempt(id, 'lost', 'worker_lost')
  repeat_or_end(id, tonumber(ARGV[1]), 'worker_lost', 'The worker was lost in every attempt.', tonumber(ARGV[2]))
end

-- While all workers of its queue are busy, a published id waits by right. While one is idle, its message must be lost:
-- publish it again. That the message turns up after all does no harm, since it can be claimed only once. Where no worker
-- is left that listens to its queue, but one that would take it from another, it goes back in line.
local at_work = queues_at_work(tonumber(ARGV[4]))
local function is_taken_elsewhere(id)
  local route = route_of(id)
  for queue in pairs(at_work) do
    if takes(queue, route) then return true end
  end
  return false
end

local overdue = {}
for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
  local published = key('published:' .. model)
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', published, '-inf', now - tonumber(ARGV[3]), 'LIMIT', 0, 1000)) do
    local queue = field(id, 'queue')
    if (at_work[queue] or 0) > load_of('started', queue) then
      redis.call('ZADD', published, now, id)
      overdue[#overdue + 1] = id
      overdue[#overdue + 1] = queue
    elseif not at_work[queue] and is_taken_elsewhere(id) then
      unpublish(id)
      wait_in_line(id, clock(model) - 1)
    end
  end
end
return { lapsed, overdue }
