-- A worker goes: its hash and the locks that are still its own.
-- One step, so that a successor never frees, or loses, a lock that is its own by then.
-- ARGV prefix worker topics...
-- WRITES worker:<id> lock:<topic>
redis.call('DEL', key('worker', worker))
for i = 1, #topics do
  if holder_of(topics[i]) == worker then redis.call('DEL', key('lock', topics[i])) end
end
return 1
