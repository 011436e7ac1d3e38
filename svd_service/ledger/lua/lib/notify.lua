-- Notification of visible changes of a job.
-- include: base

-- Every visible change increments the job's version and notifies listeners with "id version state owner".
local function notify(id)
  local version = redis.call('HINCRBY', job_key(id), 'version', 1)
  local job = redis.call('HMGET', job_key(id), 'state', 'owner')
  redis.call('PUBLISH', key('events'), table.concat({ id, version, job[1] or '', job[2] or '' }, ' '))
end

local function move(id, to)
  redis.call('HINCRBY', key('states'), field(id, 'state'), -1)
  redis.call('HINCRBY', key('states'), to, 1)
  set(id, 'state', to)
end
