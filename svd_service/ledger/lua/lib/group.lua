-- Groups: jobs of one submission. The record of a group has `owner`, `created`, `size` (number of jobs), its members
-- (`member:N` → id), perhaps `webhook`, and at its end `ended`. It is deleted with the last of the members' records; a
-- member whose record is lost counts as ended, and then the record expires `keep` seconds after the last end, or after the
-- last member was unpinned.
-- include: base, delivery

local MAX_MEMBERS = 8

-- The ids of the members whose records were not deleted, in order.
local function members_of(group)
  local found = {}
  for number = 1, MAX_MEMBERS do
    local id = redis.call('HGET', group_key(group), 'member:' .. number)
    if id then found[#found + 1] = id end
  end
  return found
end

-- How a group ended: the worst of its members' ends. nil: it has not ended.
local function outcome_of(members)
  local seen = {}
  for _, id in ipairs(members) do
    local state = field(id, 'state')
    if state == 'queued' or state == 'started' then return nil end
    seen[state or 'cancelled'] = true
  end
  for _, state in ipairs({ 'failed', 'cancelled', 'expired' }) do
    if seen[state] then return state end
  end
  return 'finished'
end

-- Note the end of a member; with the last one the group ends, once, and its webhook is posted.
local function note_end_of_member(id)
  local group = field(id, 'group')
  if not group or redis.call('EXISTS', group_key(group)) == 0 then return end
  local record = redis.call('HMGET', group_key(group), 'keep', 'webhook', 'owner')
  redis.call('EXPIRE', group_key(group), math.ceil(tonumber(record[1] or '') or 86400), 'GT')
  local members = members_of(group)
  local outcome = outcome_of(members)
  if not outcome or redis.call('HSETNX', group_key(group), 'ended', now_text) == 0 or not record[2] then return end
  local copy = { 'group', redis.call('HGETALL', group_key(group)) }
  for _, member in ipairs(members) do
    if field(member, 'ended') then copy[#copy + 1] = { member, redis.call('HGETALL', job_key(member)) } end
  end
  post_delivery(group, 'group.' .. outcome, record[2], record[3], copy)
end

-- Seconds for which a record stays: with a pinned member, and while the group has not ended. (No end at all would need
-- PERSIST, which the documented Redis user may not run.)
local WITH_PINNED, UNENDED = 100 * 365 * 86400, 30 * 86400

-- Let a group's record, and that of its delivery, stay while a member is pinned, and expire when none is any more.
local function keep_while_pinned(group)
  if not group or redis.call('EXISTS', group_key(group)) == 0 then return end
  local record = redis.call('HMGET', group_key(group), 'keep', 'ended')
  local keep = tonumber(record[1] or '') or 0
  local left, condition = keep > 0 and keep < WITH_PINNED and math.ceil(keep) or 86400, { 'LT' }
  if not record[2] then left = math.max(left, UNENDED) end
  for _, id in ipairs(members_of(group)) do
    if field(id, 'pinned') then left, condition = WITH_PINNED, {} end
  end
  redis.call('EXPIRE', group_key(group), left, unpack(condition))
  if of_delivery(group, 'state') ~= 'pending' then redis.call('EXPIRE', delivery_key(group), left, unpack(condition)) end
end

-- Take a deleted job out of its group.
local function leave_group(id, group)
  if not group then return end
  local left = 0
  for number = 1, MAX_MEMBERS do
    local member = redis.call('HGET', group_key(group), 'member:' .. number)
    if member == id then
      redis.call('HDEL', group_key(group), 'member:' .. number)
    elseif member then
      left = left + 1
    end
  end
  if left > 0 then return keep_while_pinned(group) end
  redis.call('DEL', group_key(group))
  if of_delivery(group, 'state') ~= 'pending' then redis.call('DEL', delivery_key(group)) end
end
