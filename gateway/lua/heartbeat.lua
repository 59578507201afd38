-- Say that a worker lives, and count those who do.
-- KEYS: set of workers, generation of the stream
-- ARGV: prefix of heartbeat keys, worker id, what it says of itself (JSON), lifetime in ms, a new generation id
-- Returns how many workers live.
redis.call('SET', ARGV[1] .. ARGV[2], ARGV[3], 'PX', ARGV[4])
redis.call('SADD', KEYS[1], ARGV[2])
redis.call('SET', KEYS[2], ARGV[5], 'NX')
local live = 0
for _, worker in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  live = live + redis.call('EXISTS', ARGV[1] .. worker)
end
return live
