-- Let a worker's hash expire that never would: a worker that lives renews it, and one that is dead can be seen to be.
-- One step, so that the expiry that a live worker has just set is not cut short.
-- ARGV prefix worker lease_ms
-- WRITES the expiry of worker:<id>
local me = key('worker', worker)
if redis.call('PTTL', me) ~= -1 then return 0 end
return redis.call('PEXPIRE', me, lease_ms)
