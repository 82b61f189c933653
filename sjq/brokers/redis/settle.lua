-- processing -> succeeded, failed, timedout, cancelled, scheduled or incoming: end one attempt, only under the fence that
-- the job has now.
-- One step: the end, the next jobs, the counters and the events are there together or not at all. All checks come
-- first, because Redis does not roll back.
-- ARGV prefix length topic id fence outcome reason why delay_ms halting next_jobs...  (next_jobs: topic, id, parent, message, attached, attachment)
-- WRITES processing:<topic> incoming:<topic> scheduled:<topic> failed:<topic> job_state:<id> job_data:<id>
--   job_attachment:<id> pause:<topic>, and what create writes for the next jobs
-- RETURNS 1 settled, 0 settled earlier with this fence, -1 the lease is lost, -2 a person has cancelled it, and it may
--   end in any way but not run again, -3 something of the next jobs that was staged is gone
local state = key('job_state', id)
local was = redis.call('HMGET', state, 'state', 'fence', 'attempt', 'released', 'cancel')
if was[2] ~= fence then return -1 end
if was[1] ~= 'processing' then
  -- Sent back to wait under this fence before, as a worker does that thinks it never had the job: an end comes too late.
  if was[1] == 'incoming' and outcome ~= 'incoming' and was[4] == fence then return -1 end
  return 0
end
local waits = outcome == 'incoming' or outcome == 'scheduled'
if waits and was[5] then return -2 end

must_note(topic)
must_be('list', key('incoming', topic), key('processing', topic), key('failed', topic))
must_be('zset', key('scheduled', topic))
must_be('hash', key('pause', topic))
for i = 1, #next_jobs, 6 do
  must_note(next_jobs[i])
  must_be('list', key('incoming', next_jobs[i]))
end
if not are_staged(next_jobs) then return -3 end
local ended = now_ms()
redis.call('LREM', key('processing', topic), 1, id)
if outcome == 'succeeded' then
  redis.call('DEL', key('job_data', id), key('job_attachment', id), state)
  redis.call('HSET', state, 'state', 'succeeded', 'topic', topic, 'fence', fence, 'end', ended)
  note('succeeded', topic, id, 'fence', fence, 'attempt', was[3])
else
  local counter = reason == 'lost' and 'losses' or outcome == 'incoming' and 'interruptions'
  if not counter and outcome ~= 'cancelled' and reason ~= 'message' then counter = 'tries' end
  if counter then count(state, counter) end
  local event = outcome
  if outcome == 'incoming' then
    event = reason == 'lost' and 'recovered' or 'released'
    remember(id, reason == 'lost' and 'lost' or 'released', reason)
    redis.call('HSET', state, 'state', 'incoming', 'since', ended, 'released', fence)
    redis.call('LPUSH', key('incoming', topic), id)
  elseif outcome == 'scheduled' then
    event = 'retried'
    remember(id, reason == 'timeout' and 'timedout' or 'failed', reason)
    local due = ended + delay_ms
    redis.call('HSET', state, 'state', 'scheduled', 'since', ended, 'due', string.format('%.0f', due), 'reason', reason, 'why', why)
    redis.call('ZADD', key('scheduled', topic), due, id)
  else
    remember(id, outcome, reason)
    put_away(topic, id, outcome, reason, why)
    if outcome == 'failed' and reason == 'lost' then event = 'lost' end
    if halting == '1' and outcome ~= 'cancelled' then halt(topic, id) end
  end
  if reason == '' then
    note(event, topic, id, 'fence', fence, 'attempt', was[3], 'why', why)
  else
    note(event, topic, id, 'fence', fence, 'attempt', was[3], 'reason', reason, 'why', why)
  end
end
for i = 1, #next_jobs, 6 do
  let_wait(next_jobs[i], next_jobs[i + 1], next_jobs[i + 3], next_jobs[i + 4], next_jobs[i + 5], next_jobs[i + 2])
end
return 1
