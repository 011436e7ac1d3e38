-- Compare jobs with the sets that must hold them, and repair the sets from the records. Jobs whose record is missing or
-- damaged are dropped. Arguments: ids, record_ttl (seconds). Returns {id, what was wrong, id, what was wrong, …}; it was
-- nothing ('') for an id that has no record and was in none of the sets: its job may have been deleted in the meantime.
-- include: record, attempt
-- flags: allow-oom
local answer = {}
local function report(id, what)
  answer[#answer + 1] = id
  answer[#answer + 1] = what
  count('damaged|repaired')
end

-- Remove an id from sets where it must not be; returns from how many.
local function leave(id, sets)
  local left = 0
  for _, name in ipairs(sets) do left = left + redis.call('ZREM', key(name), id) end
  return left
end

local function mend_queued(id, route, model)
  local wrong = leave(id, { 'leases', 'ended' })
  local enqueued = redis.call('ZSCORE', key(ENQUEUED .. ':' .. model), id)
  local waits = redis.call('ZSCORE', key('waiting:' .. model), id)
  local waits_in_route = redis.call('ZSCORE', key('waiting:' .. route), id)
  if enqueued and field(id, 'queue') then
    wrong = wrong + leave(id, { 'waiting:' .. model, 'waiting:' .. route })
  elseif enqueued or not waits or not waits_in_route then
    redis.call('ZREM', key(ENQUEUED .. ':' .. model), id)
    redis.call('HDEL', job_key(id), 'queue', 'slotless')
    wait(id, tonumber(waits or waits_in_route or clock(model)))
    wrong = wrong + 1
  end
  if not redis.call('ZSCORE', key('queued:' .. route), id) then
    redis.call('ZADD', key('queued:' .. route), field(id, 'created'), id)
    wrong = wrong + 1
  end
  return wrong
end

local function mend(id, state)
  local route, model = route_of(id)
  local wrong = 0
  if not redis.call('ZSCORE', key('models'), model) then redis.call('ZADD', key('models'), now, model) end
  if state == 'started' and not (field(id, 'token') and field(id, 'held:' .. field(id, 'attempt'))) then
    set(id, 'state', 'queued')
    redis.call('HDEL', job_key(id), 'token', 'queue')
    state, wrong = 'queued', 1
  end
  local queued = { 'waiting:' .. model, 'waiting:' .. route, ENQUEUED .. ':' .. model, 'queued:' .. route }
  if state == 'queued' then
    wrong = wrong + mend_queued(id, route, model)
  elseif state == 'started' then
    wrong = wrong + leave(id, queued) + leave(id, { 'ended' })
    -- Its lease is not renewed: the next round of maintenance requeues the job.
    if not redis.call('ZSCORE', key('leases'), id) then wrong = wrong + redis.call('ZADD', key('leases'), now, id) end
  else
    wrong = wrong + leave(id, queued) + leave(id, { 'leases' })
    local pinned = field(id, 'pinned') and not field(id, 'deleted')
    if pinned then keep_while_pinned(field(id, 'group')) end  -- pinned under an earlier release
    if not redis.call('ZSCORE', key('ended'), id) then
      wrong = wrong + redis.call('ZADD', key('ended'), pinned and '+inf' or now + args.record_ttl, id)
    end
    local delivery = redis.pcall('HGET', namespace .. ':delivery:' .. id, 'state')
    if delivery == 'pending' and not redis.call('ZSCORE', key('outbox'), id) then
      if not redis.call('ZSCORE', key('posted'), id) then wrong = wrong + redis.call('ZADD', key('outbox'), now, id) end
    end
  end
  local deadline = tonumber(field(id, 'deadline') or '')
  if deadline and deadline > now and (state == 'queued' or state == 'started') then
    wrong = wrong + redis.call('ZADD', key('deadlines'), deadline, id)
  end
  if not redis.call('ZSCORE', key('jobs'), id) then redis.call('ZADD', key('jobs'), field(id, 'created'), id) end
  local owned = key('owner:' .. field(id, 'owner'))
  if not field(id, 'deleted') and not redis.call('ZSCORE', owned, id) then
    wrong = wrong + redis.call('ZADD', owned, field(id, 'created'), id)
  end
  return wrong
end

for _, id in ipairs(args.ids) do
  local state = sound_state(id)
  if not state then
    if remove(id) > 0 then
      report_damage('job', id)
      report(id, 'its record is missing or damaged; dropped')
    else
      answer[#answer + 1] = id
      answer[#answer + 1] = ''
    end
  elseif mend(id, state) > 0 then
    report(id, 'its sets did not follow its record; repaired')
  end
end
return answer
