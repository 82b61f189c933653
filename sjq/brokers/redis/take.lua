-- incoming -> processing: lease the next job under a fence that the worker made; before that, scheduled -> incoming for
-- those whose time has come.
-- One step, so that the id is always in a list, and leased to somebody while it is in `processing`. An id whose
-- state is anything but none or incoming is dropped: it was pushed again. The stubs of published jobs start to expire.
-- ARGV prefix length topic worker fence again anew large stub_s published...
-- READS job_data:<id> pause:<topic> lock:<topic>  WRITES job_data:<id> job_attachment:<id> incoming:<topic> scheduled:<topic>
--   processing:<topic> job_state:<id> stats:<topic> events
-- RETURNS false when nothing may be taken, the ms until the next scheduled job is due, 'more' when it only dropped, or
--   {id, message or the length of a large one, attempt, taken ms, waiting since ms, history, tries, losses, interruptions}
for i = 1, #published do
  local state = key('job_state', published[i])
  if redis.call('HGET', state, 'state') == 'succeeded' then redis.call('EXPIRE', state, stub_s) end
end

local incoming, processing, scheduled = key('incoming', topic), key('processing', topic), key('scheduled', topic)
must_note(topic)
must_be('list', incoming, processing, key('failed', topic))
must_be('zset', scheduled)
must_be('hash', key('pause', topic))

local function leased(id)
  local message = redis.pcall('STRLEN', key('job_data', id))
  if type(message) ~= 'table' and message <= tonumber(large) then message = redis.call('GET', key('job_data', id)) end
  local was = redis.call(
    'HMGET', key('job_state', id), 'attempt', 'taken', 'since', 'history', 'tries', 'losses', 'interruptions')
  if type(message) == 'table' then message = false end
  return {id, message, tonumber(was[1]), was[2], was[3], was[4], was[5], was[6], was[7]}
end

-- The answer to the first call was lost: what it took is ours already.
if again == '1' then
  local ids = redis.call('LRANGE', processing, 0, -1)
  for i = #ids, 1, -1 do
    if redis.call('HGET', key('job_state', ids[i]), 'fence') == fence then return leased(ids[i]) end
  end
end

if anew == '0' or redis.call('EXISTS', key('pause', topic)) == 1 then return false end
-- A worker that was cut off may have lost the topic, and not have heard of it.
local holder = holder_of(topic)
if holder and holder ~= worker then return false end

-- What ran before is taken next, the longest due first; what was delayed at its creation joins at the tail.
local now = now_ms()
local due = redis.call('ZRANGE', scheduled, '-inf', now, 'BYSCORE', 'LIMIT', 0, 100)
local again_at_head = {}
for _, id in ipairs(due) do
  local state = key('job_state', id)
  redis.call('ZREM', scheduled, id)
  local was = redis.pcall('HMGET', state, 'state', 'attempt')
  if was[1] == 'scheduled' then
    redis.call('HSET', state, 'state', 'incoming', 'since', now)
    redis.call('HDEL', state, 'due')
    if was[2] then table.insert(again_at_head, 1, id) else redis.call('RPUSH', incoming, id) end
    note('due', topic, id)
  end
end
for _, id in ipairs(again_at_head) do redis.call('LPUSH', incoming, id) end

for _ = 1, 100 do
  local id = redis.call('LINDEX', incoming, 0)
  if not id then
    local first = redis.call('ZRANGE', scheduled, 0, 0, 'WITHSCORES')
    return first[2] and math.max(0, math.ceil(first[2] - now)) or false
  end
  local state = key('job_state', id)
  local was = redis.pcall('HGET', state, 'state')
  if type(was) == 'table' then
    redis.call('DEL', state)  -- not ours: no hash
    was = false
  end
  if was and was ~= 'incoming' then
    redis.call('LPOP', incoming)
    -- A producer who repeats both of his commands after a success has set the message anew.
    if was == 'succeeded' then redis.call('DEL', key('job_data', id), key('job_attachment', id)) end
    note('dropped', topic, id, 'state', was)
  else
    redis.call('HSET', state, 'state', 'processing', 'topic', topic, 'fence', fence, 'worker', worker, 'taken', now)
    local attempt = count(state, 'attempt')
    redis.call('LPOP', incoming)
    redis.call('RPUSH', processing, id)
    note('taken', topic, id, 'fence', fence, 'attempt', attempt)
    return leased(id)
  end
end
return 'more'
