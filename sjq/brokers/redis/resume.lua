-- Jobs of these topics are taken again, whoever or whatever stopped that.
-- One step for all topics of the call.
-- ARGV prefix topics...
-- WRITES pause:<topic>
-- RETURNS the topics that were paused or halted
local resumed = {}
for i = 1, #topics do
  if redis.call('DEL', key('pause', topics[i])) == 1 then resumed[#resumed + 1] = topics[i] end
end
return resumed
