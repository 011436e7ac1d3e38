-- Cancel a job: a queued one at once; a started one is flagged, and its worker stops at the next step.
-- Arguments: id, record_ttl (seconds). Returns the state after that, or false for an unknown job.
-- include: record, ending
-- flags: allow-oom
local id = args.id
local state = fail_if_late(id, known_state(id), args.record_ttl)
if state == 'queued' then
  end_job(id, 'cancelled', args.record_ttl)
elseif state == 'started' and not field(id, 'cancel') then
  set(id, 'cancel', 1)
  notify(id)
end
return state and field(id, 'state')
