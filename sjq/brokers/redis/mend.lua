-- Look at one id, in a place where it was seen or (with no place) where its state says that it is, and put right what
-- is wrong with it. One step, so that what was seen page by page is seen again at one instant: a job that only moved
-- meanwhile has no fault. The state is the truth: an id is in the place of its state, once, and in no other.
-- ARGV prefix length repair halting place topic id topics...  (repair: 1 to mend, else only look; topic: with no place, the one
--   that the message names, or none; topics: all there are)
-- WRITES the list or zset of any state, job_state:<id> job_data:<id> job_attachment:<id> pause:<topic> stats:<topic>
--   events
-- RETURNS false when nothing is wrong, or the fault, the state, and how often it is there
local homes = {incoming = 'incoming', processing = 'processing', scheduled = 'scheduled', inbox = 'inbox',
               failed = 'failed', timedout = 'failed', cancelled = 'failed', rejected = 'rejected'}
local waits = {incoming = true, scheduled = true, inbox = true}
local state, data, attachment = key('job_state', id), key('job_data', id), key('job_attachment', id)

local function copies(there, of)
  local name = key(there, of)
  local kind = redis.call('TYPE', name).ok
  if kind == 'list' then return #redis.call('LPOS', name, id, 'COUNT', 0) end
  return kind == 'zset' and redis.call('ZSCORE', name, id) and 1 or 0
end

local function somewhere(there, but)
  for i = 1, #topics do
    if topics[i] ~= but and copies(there, topics[i]) > 0 then return true end
  end
  return false
end

local function must_hold(of)
  must_note(of)
  must_be('list', key('incoming', of), key('processing', of), key('failed', of), key('inbox', of), key('rejected', of))
  must_be('zset', key('scheduled', of))
  must_be('hash', key('pause', of))
end

local function take_out(there, of)
  if there == 'scheduled' then redis.call('ZREM', key(there, of), id) else redis.call('LREM', key(there, of), 0, id) end
end

local function put(there, of)
  if there == 'scheduled' then redis.call('ZADD', key(there, of), now_ms(), id)  -- nobody knows any more when it was due
  elseif there == 'incoming' then redis.call('LPUSH', key(there, of), id)
  else redis.call('RPUSH', key(there, of), id) end
end

local function fail_without_message(of)
  local why = 'it waited, but has no message: SET job_data:<id>, then sjq retry'
  redis.call('HSET', state, 'state', 'failed', 'topic', of, 'end', now_ms(), 'reason', 'message', 'why', why)
  put('failed', of)
  note('failed', of, id, 'reason', 'message', 'why', why)
  if halting == '1' then halt(of, id) end
end

local was = redis.pcall('HMGET', state, 'state', 'topic')
if was.err then return false end  -- no hash: another fault, which is not this job's
local now, at = was[1], was[2]
local home = homes[now or '']
local message = redis.call('EXISTS', data) == 1
local mend = repair == '1'

if now and now ~= 'succeeded' and not home then return false end  -- of a newer sjq

if place == '' then
  if not now then
    if not message and redis.call('EXISTS', state) == 0 then return false end
    for there in pairs({incoming = 1, processing = 1, scheduled = 1, failed = 1, inbox = 1, rejected = 1}) do
      if somewhere(there) then return false end
    end
    if not message then
      -- Fields that somebody wrote by hand, or left when he deleted the rest: no step reads them, and they never expire.
      if mend then redis.call('DEL', state) end
      return {'hollow', '', 0}
    end
    -- A producer set the message and did not come to the push. Whoever repeats the push does no harm.
    if mend then
      if topic == '' then return false end
      must_hold(topic)
      redis.call('RPUSH', key('incoming', topic), id)
      note('recovered', topic, id, 'why', 'it had a message and no place')
    end
    return {'unpushed', '', 0}
  end
  if now == 'succeeded' then
    -- A producer set the message anew after the success, and the push that take would have dropped never came.
    if redis.call('EXISTS', data, attachment) == 0 or somewhere('incoming') then return false end
    if mend then redis.call('DEL', data, attachment) end
    return {'anew', now, 0}
  end
  if somewhere(home) then return false end
  local of = at or topic
  if mend then
    if of == '' then return false end
    must_hold(of)
    if waits[now] and not message then
      fail_without_message(of)
    else
      redis.call('HSET', state, 'topic', of)
      put(home, of)
      note('recovered', of, id, 'why', 'it was in no list')
    end
  end
  return {'homeless', now, 0}
end

local count = copies(place, topic)
if count == 0 then return false end
if not now and place ~= 'incoming' then
  if place == 'processing' then return false end  -- an older sjq's: recovery's business
  if mend then
    must_hold(topic)
    if not message then
      take_out(place, topic)
      note('dropped', topic, id, 'why', 'nothing but its id was left')
    else
      redis.call('HSET', state, 'state', place, 'topic', topic)
      if place == 'failed' then redis.call('HSET', state, 'end', now_ms(), 'why', 'its state was lost; it was among the failed') end
      note('recovered', topic, id, 'why', 'it had no state')
    end
  end
  return {message and 'stateless' or 'nothing', '', count}
end
if not now or (place == home and (not at or at == topic or copies(home, at) == 0)) then
  if not message and (not now or waits[now]) then
    if mend then
      must_hold(topic)
      take_out(place, topic)
      fail_without_message(topic)
    end
    return {'messageless', now or '', count}
  end
  if count == 1 then
    -- On two topics, with no state that says which is meant: whichever takes it first has it.
    return not now and somewhere(place, topic) and {'torn', '', count}
  end
  if mend then
    must_hold(topic)
    redis.call('LREM', key(place, topic), 1 - count, id)
    note('dropped', topic, id, 'state', now or 'incoming')
  end
  return {'twice', now or '', count}
end
if mend then
  must_hold(topic)
  if at then must_hold(at) end
  take_out(place, topic)
  note('dropped', topic, id, 'state', now)
  if now == 'succeeded' then
    if place == 'incoming' then redis.call('DEL', data, attachment) end
  elseif copies(home, at or topic) == 0 then
    put(home, at or topic)
  end
end
return {'stray', now, count}
