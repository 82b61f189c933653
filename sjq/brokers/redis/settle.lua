-- processing -> succeeded, failed or incoming: end one attempt, only under the fence that the job has now.
-- One step: the end, the next jobs, the counters and the events are there together or not at all. All checks come
-- first, because Redis does not roll back.
-- ARGV prefix length topic id fence outcome reason why next_jobs...  (next_jobs: topic, id, parent, message, attached, attachment)
-- WRITES processing:<topic> incoming:<topic> failed:<topic> job_state:<id> job_data:<id> job_attachment:<id>, and what
--   create writes for the next jobs
-- RETURNS 1 settled, 0 settled earlier with this fence, -1 the lease is lost
local state = key('job_state', id)
local was = redis.call('HMGET', state, 'state', 'fence', 'attempt', 'interruptions')
if was[2] ~= fence then return -1 end
if was[1] ~= 'processing' then
  -- Released under this fence before, as a worker does that thinks it never had the job: an end comes too late. (A
  -- person who sends an ended job back resets the count.)
  if was[1] == 'incoming' and outcome ~= 'incoming' and was[4] then return -1 end
  return 0
end

must_note(topic)
must_be('list', key('incoming', topic), key('processing', topic), key('failed', topic))
for i = 1, #next_jobs, 6 do
  must_note(next_jobs[i])
  must_be('list', key('incoming', next_jobs[i]))
end
local ended = now_ms()
redis.call('LREM', key('processing', topic), 1, id)
if outcome == 'succeeded' then
  redis.call('DEL', key('job_data', id), key('job_attachment', id), state)
  redis.call('HSET', state, 'state', 'succeeded', 'topic', topic, 'fence', fence, 'end', ended)
  note('succeeded', topic, id, 'fence', fence, 'attempt', was[3])
elseif outcome == 'failed' then
  remember(id, 'failed', reason)
  redis.call('HSET', state, 'state', 'failed', 'end', ended, 'reason', reason, 'why', why)
  redis.call('HDEL', state, 'since')
  redis.call('RPUSH', key('failed', topic), id)
  note('failed', topic, id, 'fence', fence, 'attempt', was[3], 'reason', reason, 'why', why)
else
  remember(id, 'released', '')
  redis.call('HSET', state, 'state', 'incoming', 'since', ended)
  count(state, 'interruptions')
  redis.call('LPUSH', key('incoming', topic), id)
  note('released', topic, id, 'fence', fence, 'attempt', was[3], 'why', why)
end
for i = 1, #next_jobs, 6 do
  let_wait(next_jobs[i], next_jobs[i + 1], next_jobs[i + 3], next_jobs[i + 4], next_jobs[i + 5], next_jobs[i + 2])
end
return 1
