-- Choose the jobs whose ids are enqueued with Celery now, and for each the workers' queue that gets it, so that each of
-- these queues has as many enqueued and unclaimed as it has workers. The first is the job with the lowest of the tags
-- that lib/accept.lua (`queue_job`) gave, which make the order fair. Within a queue, Celery gives an id to any free
-- worker, and claim.lua decides whether that worker may have it. A requeued job has waited already and may exceed the
-- number: messages of other enqueued jobs may have been lost with its worker.
-- Arguments: worker_timeout (seconds without heartbeat), record_ttl (seconds after which a model that no worker holds and
-- no job requests is deleted). Returns {id, queue, id, queue, …}; the caller enqueues each id there.
-- include: record, queue, workers, paused
-- flags: allow-oom
local MAX_CHOSEN = 1000  -- in one call
local at_work = queues_at_work(args.worker_timeout)

-- The queues of a model's workers: those that take few profiles get their jobs before those that take all. A model without
-- workers has one id enqueued for the next worker.
local function queues_of(model)
  local found = {}
  for name, workers in pairs(at_work) do
    local its_model, profiles = parts_of(name)
    if its_model == model then
      local room = workers - load_of(ENQUEUED, name)
      local queue = { name = name, room = room, lines = {}, number_of_profiles = math.huge }
      for profile in string.gmatch(profiles, '[^,]+') do
        queue.lines[#queue.lines + 1] = model .. '|' .. profile
        queue.number_of_profiles = #queue.lines
      end
      if profiles == '' then queue.lines[1] = model end
      found[#found + 1] = queue
    end
  end
  if #found == 0 then
    found[1] = { name = model .. '|', room = 1 - load_of(ENQUEUED, model .. '|'), lines = { model } }
  end
  table.sort(found, function(a, b)
    if a.number_of_profiles ~= b.number_of_profiles then return a.number_of_profiles < b.number_of_profiles end
    return a.name < b.name
  end)
  return found
end

-- The first job of a line, and its tag. Damaged records are dropped, so the loop ends.
local function first_of(line)
  for _ = 1, MAX_CHOSEN do
    local first = redis.call('ZRANGE', key('waiting:' .. line), 0, 0, 'WITHSCORES')
    if not first[1] then return end
    if is_usable(first[1], 'queued', 'waiting:' .. line) then return first[1], tonumber(first[2]) end
  end
end

local function next_of(queues)
  local best
  for _, queue in ipairs(queues) do
    for _, line in ipairs(queue.lines) do
      local id, tag = first_of(line)
      if id then
        local has_room = queue.room > 0
        local sooner = not best or tag < best.tag or (tag == best.tag and has_room and not best.has_room)
        if sooner and (has_room or field(id, 'attempt') ~= '0') then
          best = { id = id, tag = tag, queue = queue, line = line, has_room = has_room }
        end
      end
    end
  end
  return best
end

local chosen = {}
for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
  local queues = pause_of('dispatch', model) and {} or queues_of(model)
  for _ = 1, MAX_CHOSEN do
    local best = next_of(queues)
    if not best then break end
    redis.call('ZREM', key('waiting:' .. best.line), best.id)  -- by list: a damaged record may name another route
    enqueue(best.id, best.queue.name)
    best.queue.room = best.queue.room - 1
    redis.call('SET', key('clock:' .. model), math.max(clock(model), best.tag))
    chosen[#chosen + 1] = best.id
    chosen[#chosen + 1] = best.queue.name
  end
  if redis.call('ZCARD', key('waiting:' .. model)) + redis.call('ZCARD', key(ENQUEUED .. ':' .. model)) == 0 then
    -- No job waits or is about to start, so reset the owners' shares. Not sooner: an owner with an
    -- enqueued job would start at zero again beside new owners.
    redis.call('DEL', key('finish_tags:' .. model), key('clock:' .. model))
    if tonumber(redis.call('ZSCORE', key('models'), model)) < now - args.record_ttl then
      redis.call('ZREM', key('models'), model)
      redis.call('HDEL', key('model_descriptions'), model)
    end
  end
end
return chosen
