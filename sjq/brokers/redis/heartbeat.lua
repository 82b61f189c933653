-- Keep a worker, its locks and the proof of its leases alive.
-- One step and one round trip, so that a worker is never alive without its locks or the other way round.
-- ARGV prefix worker lease_ms expired facts_n topics_n rest...  (rest: facts, topics, then id and fence of each lease)
-- READS job_state:<id>  WRITES worker:<id> control:<worker> lock:<topic>
-- A lock that nobody holds has expired, if that may be, or somebody freed it; then it is lost.
-- RETURNS {topics whose lock is lost}, {fences that are lost}, {fence and why of each lease that a person has cancelled},
--   the server's time in ms
local me = key('worker', worker)
redis.call('DEL', me)
redis.call('HSET', me, unpack(rest, 1, tonumber(facts_n)))
redis.call('PEXPIRE', me, lease_ms)
redis.call('DEL', key('control', worker))  -- it only wakes us: a job's state says for good what is to become of it
local lost_locks, lost_leases, cancelled = {}, {}, {}
local first = tonumber(facts_n) + 1
local last = tonumber(facts_n) + tonumber(topics_n)
for i = first, last do
  local lock = key('lock', rest[i])
  local holder = holder_of(rest[i])
  if not holder and expired == '1' then
    redis.call('SET', lock, worker, 'PX', lease_ms)
  elseif holder == worker then
    redis.call('PEXPIRE', lock, lease_ms)
  else
    lost_locks[#lost_locks + 1] = rest[i]
  end
end
for i = last + 1, #rest, 2 do
  local was = redis.pcall('HMGET', key('job_state', rest[i]), 'fence', 'cancel')
  if was[1] ~= rest[i + 1] then
    lost_leases[#lost_leases + 1] = rest[i + 1]
  elseif was[2] then
    cancelled[#cancelled + 1] = rest[i + 1]
    cancelled[#cancelled + 1] = was[2]
  end
end
return {lost_locks, lost_leases, cancelled, now_ms()}
