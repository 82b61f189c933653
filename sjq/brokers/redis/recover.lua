-- processing -> incoming, failed when lost too often, or cancelled when a person asked for that: take back the jobs of
-- workers that are gone.
-- One step, so that a job is never in two lists or in none, and its old fence is worth nothing from then on. A worker
-- that is only thought to have expired is looked at again here: it may have come back. The empty id stands for
-- ids that an older sjq left in `processing` without any state.
-- ARGV prefix length topic losses halting look dead_n workers...  (look: 1 to change nothing; workers: the dead, then those
--   that are thought to have expired)
-- WRITES processing:<topic> incoming:<topic> failed:<topic> job_state:<id> pause:<topic> stats:<topic> events
-- RETURNS id, worker and new state of each job
local gone = {}
for i = 1, #workers do
  if i <= tonumber(dead_n) or redis.call('EXISTS', key('worker', workers[i])) == 0 then gone[workers[i]] = true end
end
local function becomes(cancel, lost)
  return cancel and 'cancelled' or lost >= tonumber(losses) and 'failed' or 'incoming'
end

local processing, recovered, away = key('processing', topic), {}, {}
must_note(topic)
must_be('list', processing, key('incoming', topic), key('failed', topic))
must_be('hash', key('pause', topic))
local ids = redis.call('LRANGE', processing, 0, -1)
for i = #ids, 1, -1 do
  local id = ids[i]
  local state = key('job_state', id)
  local kind = redis.call('TYPE', state).ok
  local was = kind == 'hash' and redis.call('HMGET', state, 'worker', 'state', 'fence', 'cancel', 'losses') or {}
  local worker = was[1] or ''
  if gone[worker] and look == '1' then
    if not was[2] or was[2] == 'processing' then
      local lost = worker ~= '' and 1 + (tonumber(was[5]) or 0) or 0
      for _, value in ipairs({id, worker, becomes(was[4], lost)}) do recovered[#recovered + 1] = value end
    end
  elseif gone[worker] then
    if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', state) end
    redis.call('LREM', processing, -1, id)
    if was[2] and was[2] ~= 'processing' then
      note('dropped', topic, id, 'state', was[2])  -- a second copy; the job is where its state says
    else
      local fence = was[3] or ''
      if was[2] then remember(id, 'lost', 'lost') end
      local lost = worker ~= '' and count(state, 'losses') or 0
      redis.call('HSET', state, 'topic', topic, 'fence', '')
      local new = becomes(was[4], lost)
      if new == 'cancelled' then
        table.insert(away, 1, {id, new, 'cancelled', was[4], fence, 'cancelled'})
      elseif new == 'failed' then
        local why = 'it was lost with its worker ' .. lost .. ' times: look at what it does to its worker, then sjq retry'
        table.insert(away, 1, {id, new, 'lost', why, fence, 'lost'})
      else
        redis.call('HSET', state, 'state', new, 'since', now_ms())
        redis.call('LPUSH', key('incoming', topic), id)
        note('recovered', topic, id, 'fence', fence)
      end
      for _, value in ipairs({id, worker, new}) do recovered[#recovered + 1] = value end
    end
  end
end
for _, job in ipairs(away) do
  local id, new, reason, why, fence, event = unpack(job)
  put_away(topic, id, new, reason, why)
  if halting == '1' and new == 'failed' then halt(topic, id) end
  note(event, topic, id, 'fence', fence, 'reason', reason, 'why', why)
end
return recovered
