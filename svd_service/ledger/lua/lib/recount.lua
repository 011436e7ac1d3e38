-- Counters that follow from the sets, recomputed after damage.
-- include: base

-- `queued_of`, `loads` and `states`. Sets with so many jobs that it would block Redis are not counted, and what follows
-- from them stays as it is.
local MAX_COUNTED = 20000

local function members(name)
  local found = redis.call('ZRANGE', key(name), 0, MAX_COUNTED)
  if #found <= MAX_COUNTED then return found end
end

local function store(name, values)
  redis.call('DEL', key(name))
  for member, value in pairs(values) do redis.call('HSET', key(name), member, value) end
end

local function recount()
  local owners, loads = {}, {}
  local states, stored = {}, redis.pcall('HGETALL', key('states'))
  if stored.err then stored = {} end
  local function add(into, name, by) into[name] = (into[name] or 0) + by end
  local is_known = { queued = true, started = true, ended = true }
  local function count_jobs(set, what, each)
    local ids = members(set)
    if not ids then is_known[what] = false end
    for _, id in ipairs(ids or {}) do each(id) end
  end
  for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
    for _, profile in ipairs(PROFILES) do
      count_jobs('queued:' .. model .. '|' .. profile, 'queued', function(id)
        add(owners, field(id, 'owner') or '', 1)
        add(states, 'queued', 1)
      end)
    end
    count_jobs(ENQUEUED .. ':' .. model, 'started', function(id)
      if not field(id, 'slotless') then add(loads, ENQUEUED .. '|' .. (field(id, 'queue') or ''), 1) end
    end)
  end
  count_jobs('leases', 'started', function(id)
    add(loads, 'started|' .. (field(id, 'queue') or ''), 1)
    add(states, 'started', 1)
  end)
  count_jobs('ended', 'ended', function(id) add(states, field(id, 'state') or 'failed', 1) end)
  for i = 1, #stored, 2 do
    local state = stored[i]
    local kind = (state == 'queued' or state == 'started') and state or 'ended'
    if not is_known[kind] then states[state] = stored[i + 1] end
  end
  if is_known.queued then store('queued_of', owners) end
  if is_known.started then store('loads', loads) end
  store('states', states)
end
