-- The content cache: the latest job of an owner that made a video of the same content.
-- include: base

-- Whether a job's result may be copied for another job of its owner: it exists, and is not deleted.
local function is_reusable(id, owner)
  local job = redis.call('HMGET', job_key(id), 'state', 'deleted', 'owner', 'expires')
  return job[1] == 'finished' and not job[2] and job[3] == owner and (tonumber(job[4] or '') or 0) > now
end

-- Jobs by the kind of device that made the video.
local function content_key(owner, content) return key('content:' .. owner .. ':' .. content) end

local function remember_content(id, device, keep)
  local content = field(id, 'content')
  if not content then return end
  local known = content_key(field(id, 'owner'), content)
  redis.call('HSET', known, device, id)
  redis.call('PEXPIRE', known, math.ceil(keep * 1000))
end
