-- How many jobs of each Celery queue are enqueued or started.
-- include: base

local function add_load(kind, queue, by)
  local name = kind .. '|' .. queue
  if redis.call('HINCRBY', key('loads'), name, by) == 0 then redis.call('HDEL', key('loads'), name) end
end

local function load_of(kind, queue) return tonumber(redis.call('HGET', key('loads'), kind .. '|' .. queue) or '0') or 0 end
