-- failed, timedout, cancelled, rejected or succeeded -> none: forget ended jobs.
-- One step, so that a job that is requeued meanwhile is either forgotten before or kept whole.
-- ARGV prefix length ids...
-- WRITES failed:<topic> rejected:<topic> job_state:<id> job_data:<id> job_attachment:<id> stats:<topic> events
-- RETURNS the ids that were forgotten
local gone = {}
local ended = {succeeded = true, failed = true, timedout = true, cancelled = true, rejected = true}
for i = 1, #ids do
  local id = ids[i]
  local was = redis.call('HMGET', key('job_state', id), 'state', 'topic')
  if ended[was[1]] then
    local topic = was[2] or ''
    must_note(topic)
    must_be('list', key('failed', topic), key('rejected', topic))
    redis.call('LREM', key(was[1] == 'rejected' and 'rejected' or 'failed', topic), -1, id)
    redis.call('DEL', key('job_state', id), key('job_data', id), key('job_attachment', id))
    note('deleted', topic, id, 'state', was[1])
    gone[#gone + 1] = id
  end
end
return gone
