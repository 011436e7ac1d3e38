-- Acts of operators that stop work, until they are taken back: pauses of the intake or the dispatch (`paused`: "intake|MODEL",
-- "intake|" for all models), and worker processes that take no jobs (`held_back`: a process, or a node with all its
-- processes). The values are JSON: who, when and why.
-- include: base

-- The pause of this model or of all; nil if there is none.
local function pause_of(what, model)
  local found = redis.call('HMGET', key('paused'), what .. '|' .. model, what .. '|')
  return found[1] or found[2] or nil
end

local function is_held_back(worker)
  local found = redis.call('HMGET', key('held_back'), worker, (string.gsub(worker, '/[^/]*$', '')))
  return (found[1] or found[2]) and true or false
end
