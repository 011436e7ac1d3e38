-- Take the right to run a job. ARGV: id, token (new for every claim), holder as JSON, lease in seconds, token of a
-- claim whose holder is known to be dead or '', most attempts, seconds to keep the record.
-- Answers {'claimed', attempt} | {'held'} | {'ended'} | {'unknown'} | {'not yours'}.
hear()
local id, token, holder, lease, dead = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local state = field(id, 'state')
if not state then return { 'unknown' } end
if holds(id, token) then return { 'claimed', tonumber(field(id, 'attempt')) } end
local worker = cjson.decode(holder).worker
local queue = redis.call('HGET', key('worker_queue'), worker)
if queue and not takes(queue, route_of(id)) then return { 'not yours' } end

if state == 'started' then
  local lapsed = tonumber(redis.call('ZSCORE', key('leases'), id) or '0') < now
  if field(id, 'token') ~= dead and not lapsed then return { 'held' } end
  close_attempt(id, 'lost', 'worker_lost')
  repeat_or_end(id, tonumber(ARGV[6]), 'worker_lost', 'The worker was lost in every attempt.', tonumber(ARGV[7]))
  state = field(id, 'state')
end
if state ~= 'queued' then return { 'ended' } end

leave_queue(id)
local attempt = redis.call('HINCRBY', job_key(id), 'attempt', 1)
redis.call('HINCRBY', job_key(id), 'tries', 1)
queue = queue or select(2, route_of(id)) .. '|'
add_load('started', queue, 1)
set(id, 'queue', queue, 'token', token, 'worker', worker, 'claimed', now_text, 'held:' .. attempt, holder, 'began:' .. attempt, now_text)
redis.call('HSETNX', job_key(id), 'started', now_text)
redis.call('ZADD', key('leases'), now + lease, id)
count('attempts|started')
move(id, 'started')
announce(id)
return { 'claimed', attempt }
