-- Counters that follow from the sets, recomputed after damage.
-- include: base

-- `queued_of`, `loads` and `states`. Skipped for so many jobs that it would block Redis.
local MAX_COUNTED = 20000

local function members(name)
  local found = redis.call('ZRANGE', key(name), 0, MAX_COUNTED)
  return #found <= MAX_COUNTED and found or {}
end

local function store(name, values)
  redis.call('DEL', key(name))
  for member, value in pairs(values) do redis.call('HSET', key(name), member, value) end
end

local function recount()
  local states, owners, loads = {}, {}, {}
  local function add(into, name, by) into[name] = (into[name] or 0) + by end
  for _, model in ipairs(redis.call('ZRANGE', key('models'), 0, -1)) do
    for _, profile in ipairs(PROFILES) do
      for _, id in ipairs(members('queued:' .. model .. '|' .. profile)) do
        add(owners, field(id, 'owner') or '', 1)
        add(states, 'queued', 1)
      end
    end
    for _, id in ipairs(members(ENQUEUED .. ':' .. model)) do
      if not field(id, 'slotless') then add(loads, ENQUEUED .. '|' .. (field(id, 'queue') or ''), 1) end
    end
  end
  for _, id in ipairs(members('leases')) do
    add(loads, 'started|' .. (field(id, 'queue') or ''), 1)
    add(states, 'started', 1)
  end
  for _, id in ipairs(members('ended')) do add(states, field(id, 'state') or 'failed', 1) end
  store('queued_of', owners)
  store('loads', loads)
  store('states', states)
end
