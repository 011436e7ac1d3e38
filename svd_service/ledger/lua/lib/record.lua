-- Job hashes that are missing or damaged: recognized, and dropped from every set.
-- include: base, routes

local STATES = { queued = true, started = true, finished = true, failed = true, cancelled = true, expired = true }

-- The state of a job whose record every script can work with; nil if it is missing or damaged.
local function sound_state(id)
  local found = redis.pcall('HMGET', job_key(id), 'state', 'owner', 'route', 'created', 'version', 'attempt', ATTEMPTS,
    'parameters', 'model', 'input')
  if found.err or not (found[1] and found[2] and found[3] and found[4] and found[5] and found[6] and found[7]
    and found[8] and found[9] and found[10]) then return nil end
  local counters = found[5] .. ' ' .. found[6] .. ' ' .. found[7]
  if #counters > 30 or not string.find(counters, '^%d+ %d+ %d+$') then return nil end
  if not STATES[found[1]] or not string.find(found[3], '|', 1, true) or not tonumber(found[4]) then return nil end
  return found[1]
end

-- Count damage, and let the next round of maintenance log the id and recompute the counters.
local function report_damage(kind, id)
  count('damaged|' .. kind)
  if redis.call('ZCARD', key('discarded')) < 100 then redis.call('ZADD', key('discarded'), now, id) end
end

-- Remove an id from every set that may hold it, and its record; returns how many of these there were. Without a record its
-- owner is unknown, and so are the sets of that owner.
local function remove(id)
  local removed = 0
  local function leave(name) removed = removed + redis.call('ZREM', key(name), id) end
  for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
    leave('waiting:' .. model)
    leave(ENQUEUED .. ':' .. model)
    for _, profile in ipairs(PROFILES) do
      leave('waiting:' .. model .. '|' .. profile)
      leave('queued:' .. model .. '|' .. profile)
    end
  end
  for _, name in ipairs({ 'jobs', 'leases', 'ended', 'deadlines' }) do leave(name) end
  local owner = redis.pcall('HGET', job_key(id), 'owner')
  if type(owner) == 'string' then
    for _, name in ipairs({ 'owner:', 'ended_of:', 'pinned:' }) do leave(name .. owner) end
  end
  return removed + redis.call('DEL', job_key(id))
end

-- Drop a job whose record is missing or damaged.
local function discard(id)
  remove(id)
  report_damage('job', id)
end

-- The state of a job; false if there is none, or its record is damaged.
local function known_state(id)
  local state = sound_state(id)
  if state then return state end
  if redis.call('EXISTS', job_key(id)) == 1 then discard(id) end
  return false
end

-- Whether the job's record is intact and in `state`. A damaged one is discarded, and one in another state removed from the
-- set `found_in`, where it must not be.
local function is_usable(id, state, found_in)
  local actual = sound_state(id)
  if actual == state then return true end
  redis.call('ZREM', key(found_in), id)
  if actual then
    report_damage('set', id)
  else
    discard(id)
  end
  return false
end
