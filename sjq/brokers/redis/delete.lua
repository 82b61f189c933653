-- failed, timedout, cancelled, rejected or succeeded -> none: forget ended jobs.
-- One step, so that a job that is requeued meanwhile is either forgotten before or kept whole.
-- ARGV prefix length ids...
-- WRITES failed:<topic> rejected:<topic> job_state:<id> job_data:<id> job_attachment:<id> stats:<topic> events
-- RETURNS the ids that were forgotten
local gone = {}
for i = 1, #ids do
  local id = ids[i]
  local was = redis.call('HMGET', key('job_state', id), 'state', 'topic')
  if ENDED[was[1]] then
    let_go(id, was[1], was[2] or '')
    gone[#gone + 1] = id
  end
end
return gone
