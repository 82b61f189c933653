-- Lock all of some topics for a worker, or none.
-- One step, so that two workers that want overlapping topics never end up with half of them each.
-- ARGV prefix worker lease_ms topics...
-- WRITES lock:<topic>
-- RETURNS the topics that somebody else holds; none of them means all are locked
local held = {}
for i = 1, #topics do
  local holder = holder_of(topics[i])
  if holder and holder ~= worker then held[#held + 1] = topics[i] end
end
if #held == 0 then
  for i = 1, #topics do redis.call('SET', key('lock', topics[i]), worker, 'PX', lease_ms) end
end
return held
