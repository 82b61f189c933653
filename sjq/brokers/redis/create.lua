-- none -> incoming, for any number of jobs: message, position, event and counter of each.
-- One step, so that no reader sees a position without its message. A job that is known already is left alone,
-- so that the call may be repeated after a lost answer.
-- ARGV prefix length jobs...  (jobs: topic, id, parent, message, attached, attachment)
-- WRITES job_data:<id> job_attachment:<id> staged_data:<id> staged_attachment:<id> incoming:<topic> stats:<topic> events
-- RETURNS 1 created, -3 something that was staged is gone
must_note()
for i = 1, #jobs, 6 do
  must_note(jobs[i])
  must_be('list', key('incoming', jobs[i]))
end
if not are_staged(jobs) then return -3 end
for i = 1, #jobs, 6 do
  let_wait(jobs[i], jobs[i + 1], jobs[i + 3], jobs[i + 4], jobs[i + 5], jobs[i + 2])
end
return 1
