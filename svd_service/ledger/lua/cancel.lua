-- Ask for a job's end. ARGV: id, seconds to keep the record. A queued job is cancelled at once; a started one is
-- flagged, and its worker stops at the next step. Answers the state after that, or false for an unknown job.
local id = ARGV[1]
local state = field(id, 'state')
if state == 'queued' then
  end_job(id, 'cancelled', tonumber(ARGV[2]))
elseif state == 'started' and not field(id, 'cancel') then
  set(id, 'cancel', 1)
  announce(id)
end
return field(id, 'state')
