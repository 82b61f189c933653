-- incoming, scheduled -> cancelled; processing: its worker is told to stop it, and no end of this attempt lets it run again.
-- One step, so that a job which is taken or settled meanwhile is either cancelled before or found where it is now.
-- ARGV prefix length topic id why order_s  (topic: where the job waits, if it has no state yet)
-- WRITES incoming:<topic> scheduled:<topic> failed:<topic> job_state:<id> control:<worker> stats:<topic> events
-- RETURNS the state that the job was in, '' for one that is not there
local state = key('job_state', id)
local was = redis.call('HMGET', state, 'state', 'topic', 'worker', 'fence')
local now, place = was[1] or 'incoming', was[2] or topic
if now == 'processing' then
  local control = key('control', was[3] or '')
  redis.call('HSET', state, 'cancel', why)
  redis.call('RPUSH', control, cjson.encode({cancel = was[4]}))
  redis.call('EXPIRE', control, order_s)
elseif now == 'incoming' or now == 'scheduled' then
  must_note(place)
  must_be('list', key('incoming', place), key('failed', place))
  must_be('zset', key('scheduled', place))
  local found = redis.call('LREM', key('incoming', place), 0, id) + redis.call('ZREM', key('scheduled', place), id)
  if found == 0 and not was[1] then return '' end
  put_away(place, id, 'cancelled', 'cancelled', why)
  note('cancelled', place, id, 'reason', 'cancelled', 'why', why)
end
return now
