-- failed, timedout or cancelled -> incoming: a person sends ended jobs back, to be taken next in their old order.
-- One step for all ids of the call, so that each is always in exactly one list. Counters begin again; attempts go on.
-- ARGV prefix length topic states ids...  (states: the allowed ones, with a comma before and behind each)
-- WRITES failed:<topic> incoming:<topic> job_state:<id> stats:<topic> events
-- RETURNS the ids that were sent back
must_note(topic)
must_be('list', key('incoming', topic), key('failed', topic))
local moved = {}
for i = #ids, 1, -1 do
  local id = ids[i]
  local state = key('job_state', id)
  local was = redis.call('HGET', state, 'state')
  if was and string.find(states, ',' .. was .. ',', 1, true) and redis.call('LREM', key('failed', topic), -1, id) > 0 then
    redis.call('HDEL', state, 'tries', 'losses', 'interruptions', 'reason', 'why', 'end', 'cancel', 'released')
    redis.call('HSET', state, 'state', 'incoming', 'since', now_ms())
    redis.call('LPUSH', key('incoming', topic), id)
    note('requeued', topic, id)
    moved[#moved + 1] = id
  end
end
return moved
