ALTER TABLE entity ADD PRIMARY KEY (credit_code);
ALTER TABLE officer ADD PRIMARY KEY (credit_code, position);
ALTER TABLE officer ADD FOREIGN KEY (credit_code) REFERENCES entity;
ALTER TABLE licence ADD PRIMARY KEY (number);
ALTER TABLE licence ADD FOREIGN KEY (credit_code) REFERENCES entity;
CREATE INDEX ON entity (representative_number);
CREATE INDEX ON licence (credit_code);
GRANT USAGE ON SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
GRANT SELECT ON ALL TABLES IN SCHEMA public, zaibei_catalogue TO zaibei_probe, zaibei_backup;
