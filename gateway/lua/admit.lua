-- Admit one call: check both limits, reserve, store the open record. All or nothing.
-- KEYS: window of the endpoint, open records of this worker
-- ARGV: call id, rpm, tpm (0: no limit), tokens to reserve, the call's record (JSON, for the reaper)
-- Returns the tokens reserved (>= 0), or, when refused, -(2 * milliseconds to wait + 1) for RPM and
-- -(2 * milliseconds to wait) for TPM; the wait is at least 1.
local now = clock()
local rpm, tpm, reserve = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
-- A call that is larger than the whole limit may go when nothing else does; what it uses beyond is an overrun.
if tpm > 0 and reserve > tpm then reserve = tpm end
local slot, calls, tokens, calls_here, tokens_here = advance(KEYS[1], now)

local function wait_ms(field, excess)
  local names = {}
  for s = slot - RING + 1, slot do names[#names + 1] = field .. (s % RING) end
  local values = redis.call('HMGET', KEYS[1], unpack(names))
  for i = 1, #values do
    excess = excess - (tonumber(values[i]) or 0)
    -- this slot leaves the window when slot + i begins
    if excess <= 0 then return math.max((slot + i) * SLOT_MS - now, 1) end
  end
  return RING * SLOT_MS
end

if rpm > 0 and calls + 1 > rpm then return -(2 * wait_ms('r', calls + 1 - rpm) + 1) end
if tpm > 0 and tokens + reserve > tpm then return -(2 * wait_ms('t', tokens + reserve - tpm)) end

local place = slot % RING
redis.call('HSET', KEYS[1], 'h', slot, 'r', calls + 1, 't', tokens + reserve,
  'r' .. place, calls_here + 1, 't' .. place, tokens_here + reserve)
if calls == 0 then redis.call('PEXPIRE', KEYS[1], 90000) end
redis.call('HSET', KEYS[2], ARGV[1], slot .. ' ' .. reserve .. ' ' .. ARGV[5])
return reserve
