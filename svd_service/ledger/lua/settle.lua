-- End an attempt that has no result. ARGV: id, token, outcome, code, message, most attempts, seconds to keep the record.
-- Outcomes: 'failed' ends the job; 'cancelled' too; 'retried' and 'lost' (its holder is known to be dead) repeat it
-- while attempts are left; 'released' gives it back unharmed (the worker is leaving), and the attempt does not count. Answers 'ok' or 'stale'.
local id, token, outcome, code, message = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local max_attempts, keep = tonumber(ARGV[6]), tonumber(ARGV[7])
if not holds(id, token) then return field(id, 'last_token') == token and 'ok' or 'stale' end
close_attempt(id, outcome, code)
set(id, 'last_token', token)
if outcome == 'failed' then
  fail_job(id, code, message, keep)
elseif outcome == 'cancelled' then
  end_job(id, 'cancelled', keep)
else
  if outcome == 'released' then redis.call('HINCRBY', job_key(id), 'tries', -1) end
  repeat_or_end(id, max_attempts, code, message, keep)
end
return 'ok'
