-- Free a topic, if the holder is still the one that was looked at.
-- One step, so that a new holder never loses a lock for its predecessor's sake.
-- ARGV prefix topic holder
-- WRITES lock:<topic>
if holder_of(topic) ~= holder then return 0 end
return redis.call('DEL', key('lock', topic))
