-- Which workers may take a job. As in routing.py, a route is "model|profile", a queue "model|profile,profile" or
-- "model|" for all profiles.
-- include: base

-- The model of a route or a queue, and its profile or profiles with commas between them.
local function parts_of(name) return string.match(name, '^(.*)|(.*)$') end

-- A job's route, and its model.
local function route_of(id)
  local route = field(id, 'route') or '|'
  return route, (parts_of(route))
end

-- Whether a worker that takes jobs from `queue` takes those of `route`.
local function takes(queue, route)
  local model, profiles = parts_of(queue)
  local of, profile = parts_of(route)
  return of == model and (profiles == '' or string.find(',' .. profiles .. ',', ',' .. profile .. ',', 1, true) ~= nil)
end
