-- Choose the jobs whose ids go to Celery now, fairest first, so that each of its queues has as many published and unclaimed
-- as it has workers. A job that came back from an attempt has waited already and goes beyond that number: the messages of
-- some of the published may have died with the worker that it had. ARGV: seconds after which a silent worker does not
-- count, seconds after which a model that nobody holds or asks for is forgotten.
-- Answers {id, queue, id, queue, …}; the caller publishes each id to that queue.
local at_work = queues_at_work(tonumber(ARGV[1]))

-- The queues of a model's workers: who takes few profiles gets their jobs before who takes them all. A model without
-- workers has one id published for the next that comes.
local function queues_of(model)
  local found = {}
  for name, workers in pairs(at_work) do
    local of, profiles = parts_of(name)
    if of == model then
      local queue = { name = name, room = workers - load_of('published', name), lines = {}, width = math.huge }
      for profile in string.gmatch(profiles, '[^,]+') do
        queue.lines[#queue.lines + 1] = model .. '|' .. profile
        queue.width = #queue.lines
      end
      if profiles == '' then queue.lines[1] = model end
      found[#found + 1] = queue
    end
  end
  if #found == 0 then
    found[1] = { name = model .. '|', room = 1 - load_of('published', model .. '|'), lines = { model } }
  end
  table.sort(found, function(a, b)
    if a.width ~= b.width then return a.width < b.width end
    return a.name < b.name
  end)
  return found
end

local function next_of(queues)
  local best
  for _, queue in ipairs(queues) do
    for _, line in ipairs(queue.lines) do
      local first = redis.call('ZRANGE', key('waiting:' .. line), 0, 0, 'WITHSCORES')
      if first[1] then
        local tag, has_room = tonumber(first[2]), queue.room > 0
        local sooner = not best or tag < best.tag or (tag == best.tag and has_room and not best.has_room)
        if sooner and (has_room or field(first[1], 'attempt') ~= '0') then
          best = { id = first[1], tag = tag, queue = queue, has_room = has_room }
        end
      end
    end
  end
  return best
end

local chosen = {}
for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
  local queues = queues_of(model)
  local best = next_of(queues)
  while best do
    publish(best.id, best.queue.name)
    best.queue.room = best.queue.room - 1
    redis.call('SET', key('clock:' .. model), math.max(clock(model), best.tag))
    chosen[#chosen + 1] = best.id
    chosen[#chosen + 1] = best.queue.name
    best = next_of(queues)
  end
  if redis.call('ZCARD', key('waiting:' .. model)) + redis.call('ZCARD', key('published:' .. model)) == 0 then
    -- Nobody waits or is about to start, so the past no longer matters: forget who had how much. Not sooner: whoever has
    -- one on its way would start anew beside the newcomers, and could draw even with them.
    redis.call('DEL', key('finish_tags:' .. model), key('clock:' .. model))
    if tonumber(redis.call('ZSCORE', key('models'), model)) < now - tonumber(ARGV[2]) then
      redis.call('ZREM', key('models'), model)
      redis.call('HDEL', key('model_descriptions'), model)
    end
  end
end
return chosen
