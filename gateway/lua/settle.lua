-- Settle one call: return what was reserved and not used, charge what was used beyond, close the open record, append
-- the usage event. Limits move only while the open record is there, so a second settle changes nothing but the stream,
-- and the ledger counts a call id once.
-- KEYS: window of the endpoint, open records of the worker that admitted, generation of the stream
-- ARGV: call id, tokens really used, usage event (JSON), a new generation id (used when there is none)
local record = redis.call('HGET', KEYS[2], ARGV[1])
if record then
  redis.call('HDEL', KEYS[2], ARGV[1])
  local slot, reserved = string.match(record, '^(%d+) (%d+) ')
  slot = tonumber(slot)
  local delta = tonumber(ARGV[2]) - tonumber(reserved)
  if delta < 0 then
    local head = tonumber(redis.call('HGET', KEYS[1], 'h') or -1)
    if head >= slot and head - slot < RING then
      redis.call('HINCRBY', KEYS[1], 't' .. (slot % RING), delta)
      redis.call('HINCRBY', KEYS[1], 't', delta)
    end
  elseif delta > 0 then
    local here, calls, tokens, calls_here, tokens_here = advance(KEYS[1], clock())
    redis.call('HSET', KEYS[1], 'h', here, 'r', calls, 't', tokens + delta, 't' .. (here % RING), tokens_here + delta)
    redis.call('PEXPIRE', KEYS[1], 90000)
  end
end
local generation = redis.call('GET', KEYS[3])
if not generation then
  generation = ARGV[4]
  redis.call('SET', KEYS[3], generation)
end
redis.call('XADD', 'ark:usage:' .. generation, '*', 'e', ARGV[3])
return record and 1 or 0
