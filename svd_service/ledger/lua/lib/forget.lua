-- Deletion of a job's record.
-- include: base, notify, delivery, group

-- Listeners are sent a last version, since there is nothing left to look up. A pending webhook delivery outlives the
-- record.
local function forget(id)
  local owner, group = field(id, 'owner'), field(id, 'group')
  notify(id)
  redis.call('HINCRBY', key('states'), field(id, 'state'), -1)
  redis.call('ZREM', key('ended'), id)
  redis.call('ZREM', key('owner:' .. owner), id)
  redis.call('ZREM', key('jobs'), id)
  redis.call('ZREM', key('ended_of:' .. owner), id)
  redis.call('ZREM', key('pinned:' .. owner), id)
  redis.call('DEL', job_key(id))
  if of_delivery(id, 'state') ~= 'pending' then redis.call('DEL', delivery_key(id)) end
  leave_group(id, group)
end
