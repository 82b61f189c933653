-- No job of these topics is taken from now on; what runs goes on. Why one of them halted stays.
-- One step, so that a take falls before it or behind it.
-- ARGV prefix by topics...
-- WRITES pause:<topic>
for i = 1, #topics do must_be('hash', key('pause', topics[i])) end
for i = 1, #topics do redis.call('HSET', key('pause', topics[i]), 'by', by, 'since', now_ms()) end
return 1
