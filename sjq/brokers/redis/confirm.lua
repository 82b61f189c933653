-- The records of these jobs are published: the stubs of the succeeded ones start to expire.
-- ARGV prefix stub_s published...
-- WRITES the expiry of job_state:<id>
for i = 1, #published do
  local state = key('job_state', published[i])
  if redis.call('HGET', state, 'state') == 'succeeded' then redis.call('EXPIRE', state, stub_s) end
end
return 1
