-- What every transition shares. Stands before each script; names it needs: prefix, length.

local function now_ms()
  local t = redis.call('TIME')
  return t[1] .. string.format('%03d', math.floor(t[2] / 1000))
end

local function key(kind, id) return prefix .. kind .. ':' .. id end

-- Redis does not roll back: a key of another program in the place of ours has to stop a step before its first write.
local seen = {}
local function must_be(kind, ...)
  for _, name in ipairs({...}) do
    local found = seen[name] or redis.call('TYPE', name).ok
    seen[name] = found
    if found ~= kind and found ~= 'none' then error('the key ' .. name .. ' is a ' .. found .. ' of somebody else, and no ' .. kind) end
  end
end

local function must_note(...)
  must_be('stream', prefix .. 'events')
  for _, topic in ipairs({...}) do must_be('hash', prefix .. 'stats:' .. topic) end
end

-- Who holds a topic; a key of another program in the place of the lock holds it too, until somebody unlocks.
local function holder_of(topic)
  local holder = redis.pcall('GET', key('lock', topic))
  return type(holder) == 'table' and 'another program' or holder
end

-- One event and its counter. Neither may stop a step half-way: a counter that is no number begins again, and a stream
-- that somebody filled up to its last possible id takes nothing more.
local function note(event, topic, id, ...)
  if length == '' then
    redis.pcall('XADD', prefix .. 'events', '*', 'event', event, 'id', id, 'topic', topic, ...)
  else
    redis.pcall('XADD', prefix .. 'events', 'MAXLEN', '~', length, '*', 'event', event, 'id', id, 'topic', topic, ...)
  end
  local stats = prefix .. 'stats:' .. topic
  if type(redis.pcall('HINCRBY', stats, event, 1)) == 'table' then redis.call('HSET', stats, event, 1) end
end

-- Count one more in a job's state; what is no number there begins again.
local function count(state, field)
  local counted = redis.pcall('HINCRBY', state, field, 1)
  if type(counted) ~= 'table' then return counted end
  redis.call('HSET', state, field, 1)
  return 1
end

-- What is large of new jobs, or too much for one call, was brought before (an empty message, attached 2). Tell whether
-- it is all there, unless the jobs are there already.
local function are_staged(jobs)
  for i = 1, #jobs, 6 do
    local id = jobs[i + 1]
    local missing = (jobs[i + 3] == '' and redis.call('EXISTS', key('staged_data', id)) == 0)
      or (jobs[i + 4] == '2' and redis.call('EXISTS', key('staged_attachment', id)) == 0)
    if missing and redis.call('EXISTS', key('job_state', id), key('job_data', id)) == 0 then return false end
  end
  return true
end

local function put(kind, id, content, staged)
  if not staged then return redis.call('SET', key(kind, id), content) end
  redis.call('RENAME', key('staged_' .. string.sub(kind, 5), id), key(kind, id))
  redis.call('PERSIST', key(kind, id))
end

-- A job comes into being in `incoming`, unless it is there already or was.
local function let_wait(topic, id, message, attached, attachment, parent)
  if redis.call('EXISTS', key('job_state', id), key('job_data', id)) > 0 then return end
  put('job_data', id, message, message == '')
  if attached ~= '0' then put('job_attachment', id, attachment, attached == '2') end
  redis.call('RPUSH', key('incoming', topic), id)
  if parent == '' then note('created', topic, id) else note('created', topic, id, 'parent', parent) end
end

-- No job of a topic is taken from now on, until a person resumes it: its policy says to stop at a failed job. One that
-- is paused halts too, so that whoever resumes it hears of the failure.
local function halt(topic, id)
  local pause = key('pause', topic)
  if redis.call('HEXISTS', pause, 'job') == 0 then redis.call('HSET', pause, 'job', id, 'halted', now_ms()) end
end

-- A job ends badly, or a person ends it: it goes to those that can be sent back.
local function put_away(topic, id, ended, reason, why)
  local state = key('job_state', id)
  redis.call('HSET', state, 'state', ended, 'topic', topic, 'end', now_ms(), 'reason', reason, 'why', why)
  redis.call('HDEL', state, 'since', 'due')
  redis.call('RPUSH', key('failed', topic), id)
end

-- The entry of an ended attempt in the job's history; every value is ours and needs no escaping. The oldest go when it
-- grows beyond some hundred entries.
local most_history = 32768
local function remember(id, how, reason)
  local state = key('job_state', id)
  local was = redis.call('HMGET', state, 'attempt', 'worker', 'fence', 'taken', 'history')
  local entry = string.format(
    '{"attempt":%s,"end":"%s","reason":%s,"worker":"%s","fence":"%s","taken_ms":%s,"ended_ms":%s}',
    was[1] or '0', how, reason == '' and 'null' or '"' .. reason .. '"', was[2] or '', was[3] or '', was[4] or 'null', now_ms())
  local history = was[5] and was[5] .. ',' .. entry or entry
  if #history > most_history then
    history = string.sub(history, -most_history)
    history = string.sub(history, (string.find(history, '},{', 1, true) or -2) + 2)
  end
  redis.call('HSET', state, 'history', history)
end

local ENDED = {succeeded = true, failed = true, timedout = true, cancelled = true, rejected = true}

-- An ended job is forgotten.
local function let_go(id, state, topic)
  must_note(topic)
  must_be('list', key('failed', topic), key('rejected', topic))
  redis.call('LREM', key(state == 'rejected' and 'rejected' or 'failed', topic), -1, id)
  redis.call('DEL', key('job_state', id), key('job_data', id), key('job_attachment', id))
  note('deleted', topic, id, 'state', state)
end
