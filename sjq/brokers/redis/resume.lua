-- Jobs of these topics are taken again, whoever or whatever stopped that.
-- One step for all topics of the call.
-- ARGV prefix topics...
-- WRITES pause:<topic>
-- RETURNS each topic that was paused or halted, and its hash
local resumed = {}
for i = 1, #topics do
  local pause = key('pause', topics[i])
  local was = redis.pcall('HGETALL', pause)
  if redis.call('DEL', pause) == 1 then
    resumed[#resumed + 1] = topics[i]
    resumed[#resumed + 1] = was.err and {} or was
  end
end
return resumed
