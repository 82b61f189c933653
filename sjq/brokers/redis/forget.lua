-- failed, timedout, cancelled, rejected or succeeded -> none: forget jobs that ended long enough ago.
-- One step, so that a job that is sent back meanwhile is either forgotten before or kept whole. A job that the caller
-- knows in another state than it has now, or that ended again later, has a new life and is kept. The stub of a success
-- lasts on for its ten minutes: a push that is repeated meanwhile runs nothing twice.
-- ARGV prefix length look stub_s jobs...  (look: 1 to change nothing; jobs: id, state, and the last ms in which it may have ended)
-- WRITES failed:<topic> rejected:<topic> job_state:<id> job_data:<id> job_attachment:<id> stats:<topic> events
-- RETURNS the ids that are not known, or are no longer
local unknown = {}
for i = 1, #jobs, 3 do
  local id, state, last = jobs[i], jobs[i + 1], tonumber(jobs[i + 2])
  local was = redis.pcall('HMGET', key('job_state', id), 'state', 'topic', 'end')
  if was.err then
    -- a key of somebody else, who knows what it is
  elseif not was[1] then
    if redis.call('EXISTS', key('job_data', id)) == 0 then unknown[#unknown + 1] = id end
  elseif ENDED[was[1]] and was[1] == state and (tonumber(was[3]) or last) <= last then
    local state_key = key('job_state', id)
    if look ~= '1' and was[1] ~= 'succeeded' then
      let_go(id, was[1], was[2] or '')
    elseif look ~= '1' and redis.call('PTTL', state_key) == -1 then
      redis.call('EXPIRE', state_key, stub_s)
    end
    unknown[#unknown + 1] = id
  end
end
return unknown
