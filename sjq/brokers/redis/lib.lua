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

-- One event and its counter.
local function note(event, topic, id, ...)
  if length == '' then
    redis.call('XADD', prefix .. 'events', '*', 'event', event, 'id', id, 'topic', topic, ...)
  else
    redis.call('XADD', prefix .. 'events', 'MAXLEN', '~', length, '*', 'event', event, 'id', id, 'topic', topic, ...)
  end
  redis.call('HINCRBY', prefix .. 'stats:' .. topic, event, 1)
end

-- A job comes into being in `incoming`, unless it is there already or was.
local function let_wait(topic, id, message, attached, attachment, parent)
  if redis.call('EXISTS', key('job_state', id), key('job_data', id)) > 0 then return end
  redis.call('SET', key('job_data', id), message)
  if attached == '1' then redis.call('SET', key('job_attachment', id), attachment) end
  redis.call('RPUSH', key('incoming', topic), id)
  if parent == '' then note('created', topic, id) else note('created', topic, id, 'parent', parent) end
end

-- The entry of an ended attempt in the job's history; every value is ours and needs no escaping.
local function remember(id, how, reason)
  local state = key('job_state', id)
  local was = redis.call('HMGET', state, 'attempt', 'worker', 'taken', 'history')
  local entry = string.format('{"attempt":%s,"end":"%s","reason":%s,"worker":"%s","taken_ms":%s,"ended_ms":%s}',
    was[1] or '0', how, reason == '' and 'null' or '"' .. reason .. '"', was[2] or '', was[3] or 'null', now_ms())
  redis.call('HSET', state, 'history', was[4] and was[4] .. ',' .. entry or entry)
end
